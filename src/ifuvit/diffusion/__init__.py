"""The diffusion process: noise schedule, training objective, initial latents and sampling."""
