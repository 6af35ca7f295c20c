"""Exchange the attentions of a built model, over the same parameters."""
