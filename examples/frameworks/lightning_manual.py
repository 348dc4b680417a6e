"""Lightning's manual optimization: python examples/frameworks/lightning_manual.py"""

import tempfile
from pathlib import Path

import pytorch_lightning as lightning
import task
import torch
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self, method: str):
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.network = task.network()

    def training_step(self, batch, number):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            for x, y in zip(*(tensor.split(task.PART) for tensor in batch), strict=True):
                loss = task.loss_of(self.network, x, y) / task.PARTS
                self.manual_backward(loss)
            return loss

        optimizer.step(closure)
        self.lr_schedulers().step()

    def configure_optimizers(self):
        optimizer = task.optimizer_for(self.method, self.network)
        return [optimizer], [task.schedule_for(optimizer)]


def trained(method: str) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None

        for epochs in (1, task.EPOCHS):
            trainer = lightning.Trainer(
                max_epochs=epochs, accelerator="cpu", precision="bf16-mixed", default_root_dir=folder, logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            classifier = Classifier(method)
            batches = DataLoader(task.dataset(), task.PARTS * task.PART)
            trainer.fit(classifier, batches, ckpt_path=checkpoint, weights_only=True)
            checkpoint = Path(folder) / "half.ckpt"
            trainer.save_checkpoint(checkpoint)
    return classifier.network


if __name__ == "__main__":
    task.compare(trained)
