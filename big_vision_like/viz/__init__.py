"""Arrays in, pictures out: numpy and OpenCV only, nothing of ours is imported."""
