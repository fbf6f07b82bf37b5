"""What is fitted before and after training: the episodes drawn for it, the method's own fits, the presence scale."""
