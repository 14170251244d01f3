"""The control protocol's messages (protobuf), and their conversion to and from core values."""
