"""Single safetensors files in a plain repository: what git holds of them, and how it shows them."""
