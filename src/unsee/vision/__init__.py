"""The visual module of a multimodal model: loaded without its language model, read, and written back as a patch."""
