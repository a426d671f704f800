"""Train a GAN on MNIST, on Stacked MNIST made of it, or on the embedded digits, which need no download.

python gan_mnist.py --model dcgan --method gan --log_name mnist_dcgan --batch_size 32 --n_steps 100000 --lr 2e-4 --beta1 0.5 --beta2 0.999
python gan_mnist.py --dataset digits --img_size 16 --log_name digits --n_steps 1500 --ema
python gan_mnist.py --preset mnist-dcgan-conditional --log_name mnist_cgan
python gan_mnist.py --preset stacked-mnist --log_name stacked
python gan_mnist.py --log_name mnist_dcgan --resume
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

main = script_main("gan_mnist", ("mnist", "digits", "stacked-mnist"), {"img_size": 32}, __doc__)

if __name__ == "__main__":
    sys.exit(main())
