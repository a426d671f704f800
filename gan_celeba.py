"""Train a GAN on CelebA faces, square, centre-cropped; its 40 attributes are the labels.

python gan_celeba.py --model dcgan --method gan --img_size 64 --log_name celeba_dcgan --batch_size 128 --n_steps 100000 --lr 2e-4 --beta1 0.5 --beta2 0.999 --ema
python gan_celeba.py --preset celeba-dcgan-wgan --log_name celeba_dcgan_wgan
python gan_celeba.py --data img_align_celeba.zip --log_name celeba_own_copy
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

main = script_main("gan_celeba", ("celeba",), {"img_size": 64, "batch_size": 128, "flip": True}, __doc__)

if __name__ == "__main__":
    sys.exit(main())
