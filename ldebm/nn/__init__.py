"""Networks: the energy, encoders and decoders."""
