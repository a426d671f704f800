"""Keys and generators are functions of the seed and the purpose alone."""

from hashlib import blake2b

import torch

from ops.rng import generator, key


def test_key_is_blake2b_of_the_parts() -> None:
    digest = blake2b(b"(0, 1, 'z')", digest_size=8).digest()
    assert key(0, 1, "z") == int.from_bytes(digest, "little")


def test_keys_differ_by_seed_part_type_and_order() -> None:
    keys = [key(0), key(1), key(0, 1), key(0, "1"), key(0, 1, 2), key(0, 2, 1), key(0, "z"), key(0, "flip")]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**64 for k in keys)


def test_generators_repeat_and_leave_the_default_one_alone() -> None:
    state = torch.get_rng_state()
    first = torch.rand(4, generator=generator(3, 7, "flip"))
    torch.testing.assert_close(first, torch.rand(4, generator=generator(3, 7, "flip")), rtol=0, atol=0)
    assert not torch.equal(first, torch.rand(4, generator=generator(3, 8, "flip")))
    assert torch.equal(state, torch.get_rng_state())
