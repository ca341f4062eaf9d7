"""Both stages: what is minimised, on which latents and classes, and the one loop."""
