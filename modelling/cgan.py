"""Labels for any pair of networks: an embedding joins G's latents and D's image planes. arXiv:1411.1784.

Deviations: the paper maps latents and labels to separate hidden layers first; here a learnt embedding is
concatenated to z, and tiled to further channels of D's image, so that the networks themselves stay as they
are. Several labels at once (attributes) are summed and divided by the root of their number, where the source of
this form, gau-nernst/gan, divides by the number: the sum stays as large as one class's vector.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import check_labels, label_vectors


class LabelEmbedding(nn.Module):
    """Labels -> vectors (N, embed_dim).

    y is (N,) class indices, int64, or (N, n_labels) weights of several labels, which add up as rows of length 1; a row
    of zeros gives zeros.
    """

    def __init__(self, n_labels: int, embed_dim: int, std: float = 1.0) -> None:
        """std: of the initial values, 1 as that of latents."""
        super().__init__()
        self.n_labels = n_labels
        self.table = nn.Embedding(n_labels, embed_dim)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, y: Tensor | None, n: int) -> Tensor:
        """ValueError where labels are missing or do not fit a batch of n."""
        check_labels(y, n, self.n_labels)
        if y.dim() == 1:
            return self.table(y)
        weight = self.table.weight
        return F.linear(label_vectors(y, n, self.n_labels).to(weight.dtype), weight.t())


class ConditionalGenerator(nn.Module):
    """G(z (N, z_dim), y) -> images; `G` takes latents of z_dim + embed_dim."""

    def __init__(self, G: nn.Module, n_labels: int, embed_dim: int) -> None:
        """ValueError if G's latents have no room for the embedding."""
        super().__init__()
        if G.z_dim <= embed_dim:
            raise ValueError(f"G takes latents of {G.z_dim}, which must be more than embed_dim {embed_dim}")
        self.z_dim, self.img_size, self.img_channels = G.z_dim - embed_dim, G.img_size, G.img_channels
        self.n_labels = n_labels
        self.embedding = LabelEmbedding(n_labels, embed_dim)
        self.G = G

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError for missing labels and for shapes that do not fit."""
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"G takes latents of shape (N, {self.z_dim}), not {tuple(z.shape)}")
        return self.G(torch.cat([z, self.embedding(y, z.shape[0]).to(z.dtype)], 1))


class ConditionalDiscriminator(nn.Module):
    """D(x (N, C, H, W), y) -> logits; `D` takes images of C + embed_dim channels."""

    def __init__(self, D: nn.Module, n_labels: int, embed_dim: int) -> None:
        """ValueError if D's images have no room for the embedding."""
        super().__init__()
        if D.img_channels <= embed_dim:
            raise ValueError(
                f"D takes {D.img_channels} channels, which must be more than embed_dim {embed_dim}"
            )
        self.img_size, self.img_channels = D.img_size, D.img_channels - embed_dim
        self.n_labels = n_labels
        # All planes together weigh as much as one of the image: at std 1 each they drown it, batch norm keeps
        # it so, and D learns next to nothing.
        self.embedding = LabelEmbedding(n_labels, embed_dim, std=embed_dim**-0.5)
        self.D = D

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError for missing labels and for shapes that do not fit."""
        if x.dim() != 4 or x.shape[1] != self.img_channels:
            raise ValueError(f"D takes images of {self.img_channels} channels, not shape {tuple(x.shape)}")
        planes = self.embedding(y, len(x)).to(x.dtype)[:, :, None, None]
        return self.D(torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1))
