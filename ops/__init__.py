"""Operations on tensors and modules that know nothing of networks, losses or training."""
