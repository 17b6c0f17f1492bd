"""What a training would need on an accelerator that is not here, by that accelerator's own compiler."""
