"""Pictures of what a method is shown and of what its features see: so far, the picture of the demo."""
