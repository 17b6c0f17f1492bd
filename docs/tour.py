# %% [markdown]
# # A tour: train, load, look at features, analyse, fine-tune
#
# This page is a script, [tour.py](tour.py), which `python docs/tour.py` runs, and a notebook,
# [tour.ipynb](tour.ipynb), which `python scripts/tour.py` makes of it with what it printed and drew.
# It needs no download and a minute: a small ResNet learns the digits 0 to 4 that scikit-learn carries
# along, and is then asked what its features know of 5 to 9, which it never saw.

# %%
import dataclasses
import itertools
import sys

sys.path += [".", ".."]  # a clone that is not installed, seen from its root or from docs/

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeClassifier

import resnet
from configs.digits_low import get_config
from resnet.config import replaced
from resnet.data.datasets import load_dataset
from resnet.training.loop import train

# %% [markdown]
# ## Train
#
# A config is plain data. `train` makes the folder a run: config, records, checkpoints, result. Called again
# it goes on where it stopped, and here does nothing.

# %%
config = get_config()  # the digits 0 to 4
config.model.depth = 14  # three stages of two blocks
config.train.duration = "10 epochs"
result = train(config, "runs/tour/low")
print(f"test accuracy on 0 to 4: {result['top1']:.3f} of {result['n']} images")

# %% [markdown]
# ## Load, and predict
#
# A run gives logits of raw uint8 images and normalises them as in training. Below, the eight test images
# of which it is least sure.

# %%
run = resnet.load("runs/tour/low")
test = load_dataset(run.config.data).test
odds = np.exp(run.logits(test.images))
probabilities = odds / odds.sum(axis=1, keepdims=True)
figure, panels = plt.subplots(1, 8, figsize=(9, 1.7))
for panel, i in zip(panels, np.argsort(probabilities.max(axis=1)), strict=False):
    panel.imshow(test.images[i, ..., 0], cmap="gray")
    panel.set_title(f"{run.task.class_names[probabilities[i].argmax()]}: {probabilities[i].max():.0%}")
    panel.set_axis_off()
plt.show()

# %% [markdown]
# ## Look at features
#
# `features` has the output of the stem and of each block, and what the head sees, by name. The root mean
# square of each tells how the signal grows; that of the difference to the block before, how much a block
# changes (there is none where the shape changes).

# %%
features = run.features(test.images)
print({name: value.shape[1:] for name, value in features.items()})
names = [name for name in features if name != "pooled"]
size = {name: np.sqrt(np.mean(features[name] ** 2)) for name in names}
change = {
    after: np.sqrt(np.mean((features[after] - features[before]) ** 2))
    for before, after in itertools.pairwise(names)
    if features[before].shape == features[after].shape
}
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(names, list(size.values()), "o-", color="#0072B2", label="output of the block")
axes.plot(change.keys(), change.values(), "s", color="#D55E00", label="its change by the block")
axes.set(ylabel="root mean square", ylim=(0, None))
axes.tick_params(axis="x", rotation=30)
axes.legend()
plt.show()

# %% [markdown]
# ## Analyse
#
# What does each block know of the classes? A linear classifier reads them off its features, averaged over
# the pixels: off digits that the net was trained on, and off digits that it never saw. Other questions, such
# as how signal and gradient grow from block to block, are put by
# `python scripts/analyze.py --question=signal --workdir=runs/tour/low`.


# %%
def readable(classes: tuple[str, ...]) -> list[float]:
    """Test accuracy of a linear classifier on the features of each block."""
    data = load_dataset(dataclasses.replace(run.config.data, classes=classes))
    fit, held_out = run.features(data.train.images), run.features(data.test.images)
    pooled = {name: (fit[name].mean((1, 2)), held_out[name].mean((1, 2))) for name in names}
    return [
        RidgeClassifier().fit(x, data.train.labels).score(y, data.test.labels) for x, y in pooled.values()
    ]


low, high = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(names, readable(low), "o-", color="#0072B2", label="0 to 4, trained on")
axes.plot(names, readable(high), "s--", color="#D55E00", label="5 to 9, never seen")
axes.axhline(0.2, color="grey", linewidth=1, label="chance")
axes.set(ylabel="accuracy of a linear readout", ylim=(0, 1))
axes.tick_params(axis="x", rotation=30)
axes.legend()
plt.show()

# %% [markdown]
# ## Fine-tune
#
# A hundred labelled images of 5 to 9 and thirty steps: from scratch, and from the weights above with a new
# head (`init_drop`) and a stem that stays as it is, bit for bit: `freeze` keeps its parameters, and
# `model.bn_fixed` the statistics of its norm. What does not fit is an error that names the option.

# %%
tuned = {"init_from": "runs/tour/low", "init_drop": "^head/", "freeze": "^stem/", "model.bn_fixed": "^stem/"}
for name, changes in {"scratch": {}, "tuned": tuned}.items():
    few = get_config()
    few.model.depth = config.model.depth
    few.data.classes, few.data.train_limit = high, 100
    few.train.batch_size, few.train.duration = 25, "30 steps"
    result = train(replaced(few, changes), f"runs/tour/{name}")
    print(f"{name}: test accuracy on 5 to 9: {result['top1']:.3f} of {result['n']} images")

nets = [resnet.load(f"runs/tour/{name}").variables for name in ("low", "tuned")]
stems = [{kind: variables[kind]["stem"] for kind in ("params", "batch_stats")} for variables in nets]
print("the stem is the same, bit for bit:", jax.tree.all(jax.tree.map(np.array_equal, *stems)))

# %% [markdown]
# One seed says little. [The study](../results/finetune/digits.md) has five, three numbers of labels,
# and a frozen backbone: such weights save steps, but no labels. After 300 steps a net from scratch is as
# good, and a backbone that saw five digits and stays as it is serves the other five worse.
