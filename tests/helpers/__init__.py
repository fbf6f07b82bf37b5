"""Methods, data, servers and runs that several tests share."""
