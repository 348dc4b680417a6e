"""Hugging Face's Trainer: python examples/frameworks/huggingface_trainer.py

The Trainer calls backward() for each part and then step(), without a closure. So training_step() calls first_step()
after the last part and runs the second pass over the same parts; the Trainer's step() is then the second half of the
step. max_grad_norm=0 leaves clipping to clip_norm=. fp16=True is refused, because its scaler calls step() itself.
"""

import tempfile

import task
import torch
from transformers import Trainer, TrainingArguments


class SharpnessAwareTrainer(Trainer):
    parts = ()

    def training_step(self, model, inputs, *more):
        loss = super().training_step(model, inputs, *more)
        self.parts = (*self.parts, (dict(inputs), *more))
        if self.accelerator.sync_gradients:  # the batch is complete
            if self.optimizer.optimizer.first_step(zero_grad=True):
                for part in self.parts:
                    super().training_step(model, *part)
            self.parts = ()
        return loss


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = task.network()

    def forward(self, x, labels):
        return {"loss": task.loss_of(self.network, x, labels)}


def trained(method: str) -> torch.nn.Module:
    images = [{"x": x, "labels": y} for x, y in task.dataset()]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=task.EPOCHS, per_device_train_batch_size=task.PART,
            gradient_accumulation_steps=task.PARTS, train_sampling_strategy="sequential", max_grad_norm=0.0, bf16=True,
            use_cpu=True, save_strategy="epoch", report_to="none", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        for checkpoint in (None, f"{folder}/checkpoint-{task.IMAGES // (task.PARTS * task.PART)}"):
            model = Classifier()
            optimizer = task.optimizer_for(method, model.network)
            pair = optimizer, task.schedule_for(optimizer)
            trainer = SharpnessAwareTrainer(model, arguments, train_dataset=images, optimizers=pair)
            trainer.train(resume_from_checkpoint=checkpoint)
    return model.network


if __name__ == "__main__":
    task.compare(trained)
