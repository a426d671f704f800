"""Train a GAN on your own pictures: any folder, with classes in folders or without, .zip, .tar, .tar.gz or .npy.

python gan_folder.py --data photos/ --img_size 64 --log_name photos
python gan_folder.py --data portraits.zip --img_size 160x128 --crop top --flip --preset stylegan2-auto --log_name portraits
python gan_folder.py --data flowers/ --conditional --model sngan --method hinge --log_name flowers

Pictures are turned as EXIF says, and cut as --crop says; transparency is put on white, or learned by --img_channels 4.
"""

import sys

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

from training.launch import script_main

main = script_main("gan_folder", ("folder",), {"img_size": 64, "ema": True}, __doc__)

if __name__ == "__main__":
    sys.exit(main())
