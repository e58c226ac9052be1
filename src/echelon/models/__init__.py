"""World models: what can be encoded, predicted and lifted."""
