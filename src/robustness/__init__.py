"""What a trained run answers when its test data is disturbed."""
