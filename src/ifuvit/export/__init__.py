"""Models taken elsewhere: diffusers, the Hugging Face hub, ONNX, torch.export, a static web page."""
