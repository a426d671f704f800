"""Train a GAN on points of the plane, eight Gaussians on a ring or 25 on a grid, and see which modes it catches.

python gan_ring8.py --preset ring8-gan --log_name ring8_gan
python gan_ring8.py --preset ring8-wgan-gp --log_name ring8_wgan_gp
python gan_ring8.py --dataset grid25 --model mlp --method rpgan --penalty r1 r2 --train_g_interval 5 --n_steps 25000 --lr 3e-4 --log_name grid25
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

DEFAULTS = {"model": "mlp", "z_dim": 32, "batch_size": 256, "lr": 3e-4, "sample_interval": 1000}

main = script_main("gan_ring8", ("ring8", "grid25"), DEFAULTS, __doc__)

if __name__ == "__main__":
    sys.exit(main())
