"""Images and labels: obtained, verified, loaded, cut into batches and augmented."""
