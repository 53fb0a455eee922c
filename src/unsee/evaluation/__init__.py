"""From questions and answers to figures: the same code for every model, method and benchmark."""
