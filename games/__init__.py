"""Games: what is trained against what. GAMES says which one a model plays; all others play the ordinary one."""

from games.acgan import ACGAN
from games.cyclegan import CycleGAN
from games.infogan import InfoGAN
from games.noise_to_image import NoiseToImage
from games.pix2pix import Pix2Pix
from games.srgan import SRGAN
from games.task import Task
from games.veegan import VEEGAN
from settings import TrainConfig

# By model.
GAMES: dict[str, type[Task]] = {
    "veegan": VEEGAN,
    "infogan": InfoGAN,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGAN,
    "srgan": SRGAN,
}


def game_of(config: TrainConfig) -> type[Task]:
    """The game that the model plays; the ordinary one has a variant for a D that tells classes."""
    head = config.class_head()
    return GAMES.get(config.model, ACGAN if head is not None and head.classifies else NoiseToImage)
