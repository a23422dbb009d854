"""Infrastructure as code. Not a part of the distribution."""
