"""The papers' baselines on one encoder and decoder: RNN-LM, AE, VAE, models with a code.

Yu et al. (2022), appendix B.2; docs/method.md, section 7.
"""
