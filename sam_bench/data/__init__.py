"""Images and labels: download, verification, loading, batches and augmentation."""
