"""Train a GAN that makes pictures of pictures: pix2pix of pairs, CycleGAN of two sets, SRGAN of small ones.

python gan_pairs.py --data facades/ --preset pix2pix --log_name facades
python gan_pairs.py --data photos/ --pairing grey --img_size 128 --batch_size 4 --log_name colours
python gan_pairs.py --preset cyclegan --data horses/ --data_b zebras/ --log_name horse2zebra
python gan_pairs.py --model srgan --data photos/ --img_size 128 --factor 4 --batch_size 16 --log_name sharper

--data: pictures side by side, or folders A and B (trainA, testB, ...), also of a .zip or .tar.
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

DEFAULTS = {"model": "pix2pix", "img_size": 256, "batch_size": 1, "ema": True}
main = script_main("gan_pairs", ("folder",), DEFAULTS, __doc__)

if __name__ == "__main__":
    sys.exit(main())
