"""What is fitted before and after training, on images of the training and validation classes."""
