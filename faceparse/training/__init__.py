"""What a training run needs besides the network, the data and the loss."""
