"""Train a GAN on CIFAR-10.

python gan_cifar10.py --preset cifar10-gan --log_name cifar10_gan
python gan_cifar10.py --model dcgan --method hinge --spectral_norm_d --log_name cifar10_sn --n_steps 100000 --ema
python gan_cifar10.py --data cifar10.tar.gz --log_name cifar10_own_copy
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

main = script_main("gan_cifar10", ("cifar10",), {"img_size": 32, "flip": True}, __doc__)

if __name__ == "__main__":
    sys.exit(main())
