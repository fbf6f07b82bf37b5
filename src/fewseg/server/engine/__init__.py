"""What predicts in the background while a person labels."""
