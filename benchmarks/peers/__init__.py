"""Other trainers of sparse autoencoders, each run by an interpreter of its own environment."""
