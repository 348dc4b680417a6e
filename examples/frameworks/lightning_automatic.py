"""Lightning's automatic optimization: python examples/frameworks/lightning_automatic.py

Lightning passes a closure to step(). With accumulate_grad_batches it accumulates outside that closure, which then has
the last part only. Such a step is refused; use manual optimization instead. precision="16-mixed" is refused too: its
scaler calls step() itself. clip_norm= clips the direction of the step; gradient_clip_val would clip each gradient.
"""

import tempfile
from pathlib import Path

import pytorch_lightning as lightning
import task
import torch
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self, method: str):
        super().__init__()
        self.method = method
        self.network = task.network()

    def training_step(self, batch, number):
        return task.loss_of(self.network, *batch)

    def configure_optimizers(self):
        optimizer = task.optimizer_for(self.method, self.network)
        return [optimizer], [{"scheduler": task.schedule_for(optimizer, task.PART), "interval": "step"}]


def trained(method: str) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        for epochs in (1, task.EPOCHS):
            trainer = lightning.Trainer(
                max_epochs=epochs, accelerator="cpu", precision="bf16-mixed", default_root_dir=folder, logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            classifier = Classifier(method)
            trainer.fit(classifier, DataLoader(task.dataset(), task.PART), ckpt_path=checkpoint, weights_only=True)
            checkpoint = Path(folder) / "half.ckpt"
            trainer.save_checkpoint(checkpoint)
    return classifier.network


if __name__ == "__main__":
    task.compare(trained, batch=task.PART)
