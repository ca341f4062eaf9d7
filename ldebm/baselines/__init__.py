"""The papers' baselines on one encoder and decoder: RNN-LM, AE, VAE, models with a code (MR 7)."""
