"""The paper: moments → null space → contrast. Tensors and modules in, tensors out."""
