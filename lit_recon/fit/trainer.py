"""Lightning's trainer: checks its flags, runs it, and turns its errors into one line."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lit_recon.distributed import is_lost, lost
from lit_recon.errors import InputError
from lit_recon.records.checkpoints import saved_checkpoints, step_of
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import rewind

# Arguments of the trainer that train.py sets itself, or that take objects.
GIVEN_HERE = {
    *("logger", "callbacks", "default_root_dir", "enable_checkpointing", "barebones", "plugins")
}
# Arguments of loops that train.py does not run (validation, test, prediction), of samplers, and of
# epochs on other or fewer data than --data gives.
WITHOUT_MEANING = {
    "limit_train_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "num_sanity_val_steps",
    "inference_mode",
    "reload_dataloaders_every_n_epochs",
    "overfit_batches",
    "use_distributed_sampler",
}
NEVER_ZERO = (  # with 0, Lightning trains nothing and gives no error, or divides by 0
    "max_steps",
    "max_epochs",
    "accumulate_grad_batches",
)


def check_trainer(config: Namespace) -> bool:
    """Refuse flags of the trainer that cannot work, before any file is written.

    Returns:
        Whether this process is rank 0.

    Raises:
        InputError: the wrong flag.
    """
    for name in NEVER_ZERO:
        if config.trainer[name] == 0:
            raise InputError(f"--trainer.{name}", 0, "give more than 0")
    try:
        trainer = Trainer(**trainer_settings(config), logger=False, enable_checkpointing=False)
    except Exception as error:  # of many types, but always about Lightning's own flags
        raise trainer_error(error, config) from error
    data, ranks = config.data.init_args, trainer.world_size
    # If both divide, the last batch of an epoch, which may be smaller, divides too.
    for name, size in (("n", data.n), ("batch_size", min(data.batch_size or data.n, data.n))):
        if size % ranks:
            remedy = f"does not divide among {ranks} processes; give a multiple"
            raise InputError(f"--data.{name}", size, f"{remedy}, or --trainer.devices 1")
    return trainer.is_global_zero


def trainer_settings(config: Namespace) -> dict[str, Any]:
    """The arguments of the trainer; by default a progress bar only if stdout is a terminal."""
    settings: dict[str, Any] = config.trainer.as_dict()
    if settings["enable_progress_bar"] is None:
        settings["enable_progress_bar"] = sys.stdout.isatty()
    return settings


def trainer_error(error: Exception, config: Namespace) -> InputError:
    """Turn an error of Lightning into an InputError that names the flag it is most likely about."""
    message = str(error) or type(error).__name__
    settings = config.trainer.as_dict()
    named = [word for word in re.findall(r"\w+", message) if word in settings]
    for name, value in settings.items():
        if isinstance(value, str) and value != "auto" and value.lower() in message.lower():
            named.append(name)
    if not named:
        return InputError("--trainer.*", "as given", message)
    return InputError(f"--trainer.{named[0]}", settings[named[0]], message)


def train(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    directory: RunDirectory,
    config: Namespace,
) -> None:
    """Train, from the last checkpoint in the run directory if there is one.

    Raises:
        InputError: Lightning refuses a flag.
        RunError: another rank has ended.
        KeyboardInterrupt: the user has interrupted; the message says how to resume.
    """
    saved = saved_checkpoints(directory.path)
    if saved and trainer.is_global_zero:
        rewind(directory, step_of(saved[-1]))
    last = saved[-1] if saved else None
    try:
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    except RuntimeError as error:
        # The other ranks end too. Lightning watches them, and would kill rank 0 a few seconds after
        # the first of them, while it still reports the error.
        getattr(trainer.strategy.launcher, "procs", []).clear()
        if is_lost(error):
            raise lost(error) from error
        raise
    except SystemExit:  # Lightning's reaction to Ctrl-C; it then ignores a second Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        path = directory.path
        again = f"python train.py --run.dir {path.parent} --run.name {path.name} --run.resume true"
        raise KeyboardInterrupt(f"; what is finished is in {path}; {again} goes on") from None
    except (MisconfigurationException, ValueError, TypeError) as error:
        if saved_checkpoints(directory.path) or not _raised_by_lightning(error):
            raise
        raise trainer_error(error, config) from error


def _raised_by_lightning(error: Exception) -> bool:
    """Whether the last frame of a traceback is in Lightning's own code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.sep}lightning{os.sep}" in frame.filename
