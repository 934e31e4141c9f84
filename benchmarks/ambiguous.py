"""Small networks whose names and shapes do not tell, or only just tell, what they compute: one row a network.

Each is a function of its parts, and the tensors that it is given. To add one, add a line to :func:`networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """A module from a function of itself and its inputs, and its named parts."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        object.__setattr__(self, "_function", function)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the function."""
        return self._function(self, *inputs)


def linear(inputs: int, outputs: int, **options: Any) -> nn.Linear:
    return nn.Linear(inputs, outputs, **options)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def glu(x: Tensor) -> Tensor:
    return F.glu(x, 1)


def maxout(x: Tensor) -> Tensor:
    return x.view(len(x), -1, 2, *x.shape[2:]).amax(2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


# fmt: off
def networks() -> Iterator[tuple[str, str, nn.Module, tuple[Tensor, ...]]]:
    """Yield kind, name, network and inputs."""
    torch.manual_seed(0)
    x, image, text = (torch.randn(3, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8))
    relu, parts = (torch.relu, linear)
    sequence = nn.Sequential

    def row(kind: str, name: str, inputs: Tensor, function: Callable[..., Tensor], **made: Any) -> Any:
        return kind, name, Network(function, **made), (inputs,)

    # chains, which should be read
    yield ("chain", "mlp", sequence(linear(8, 6), nn.ReLU(), linear(6, 5), nn.Tanh(), linear(5, 2)), (x,))
    yield ("chain", "mlp of equal widths", sequence(linear(8, 8), nn.ReLU(), linear(8, 8), nn.ReLU(), linear(8, 8)),
        (x,))
    yield row("chain", "fc1 fc2 fc3", x, lambda s, x: s.fc3(relu(s.fc2(relu(s.fc1(x))))), fc1=parts(8, 6),
        fc2=parts(6, 5), fc3=parts(5, 2))
    yield ("chain", "cnn",
        sequence(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), linear(5, 2)),
        (image,))
    yield ("chain", "cnn, flattened",
        sequence(conv(3, 4), nn.ReLU(), nn.Flatten(), linear(256, 5), nn.ReLU(), linear(5, 2)), (image,))
    yield row("chain", "conv1 bn1 fc", image, lambda s, x: s.fc(relu(s.bn1(s.conv1(x))).mean((2, 3))),
        conv1=conv(3, 6), bn1=nn.BatchNorm2d(6), fc=parts(6, 2))
    # parallel layers
    for a, b, c in (("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj"), ("wi_0", "wi_1", "wo"), ("a", "b", "c")):
        yield row("parallel", f"gated {a} {b} {c}", x,
            lambda s, x, a=a, b=b, c=c: getattr(s, c)(F.silu(getattr(s, a)(x)) * getattr(s, b)(x)),
            **{a: parts(8, 8), b: parts(8, 8), c: parts(8, 8)})
    for prefix in ("to_", "fc_", "w"):
        names = tuple(prefix + part for part in ("q", "k", "v", "out"))
        yield row("parallel", f"attention {names[0]}", text,
            lambda s, x, n=names: getattr(s, n[3])(attention(*(getattr(s, m)(x) for m in n[:3]))),
            **{m: parts(8, 8) for m in names})
    yield row("parallel", "towers", x, lambda s, x: s.head(relu(s.left(x)) + relu(s.right(x))), left=parts(8, 8),
        right=parts(8, 8), head=parts(8, 8))
    yield row("parallel", "towers, numbered", x, lambda s, x: s.layers[2](relu(s.layers[0](x)) + s.layers[1](x)),
        layers=nn.ModuleList([parts(8, 8), parts(8, 8), parts(8, 8)]))
    yield row("parallel", "vae", x, lambda s, x: s.decoder(s.fc_mu(h := relu(s.encoder(x))) * s.fc_var(h).exp()),
        encoder=parts(8, 8), fc_mu=parts(8, 8), fc_var=parts(8, 8), decoder=parts(8, 8))
    yield row("parallel", "actor and critic", x, lambda s, x: torch.cat([s.actor(x), s.critic(x)], 1),
        actor=sequence(parts(8, 8), nn.Tanh(), parts(8, 8)), critic=sequence(parts(8, 8), nn.Tanh(), parts(8, 1)))
    yield row("parallel", "two heads, joined", x, lambda s, x: torch.cat([s.fc2(h := relu(s.fc1(x))), s.fc3(h)], 1),
        fc1=parts(8, 8), fc2=parts(8, 8), fc3=parts(8, 8))
    yield row("parallel", "inception", image,
        lambda s, x: s.fc(torch.cat([relu(s.branch1(x)), relu(s.branch2(x))], 1).mean((2, 3))), branch1=conv(3, 4, 1),
        branch2=conv(3, 4), fc=parts(8, 2))
    yield row("parallel", "experts", x,
        lambda s, x: sum((w[:, None] * e(x) for w, e in zip(s.gate(x).softmax(1).T, s.experts, strict=True))),
        gate=parts(8, 2), experts=nn.ModuleList([parts(8, 8), parts(8, 8)]))
    # layers used twice
    yield row("twice", "weight shared", x, lambda s, x: s.out(relu(s.mid(relu(s.mid(relu(s.inp(x))))))),
        inp=parts(8, 6), mid=parts(6, 6), out=parts(6, 2))
    yield row("twice", "siamese", x, lambda s, x: s.fc2(relu(s.fc1(x)) - relu(s.fc1(x.flip(1)))), fc1=parts(8, 8),
        fc2=parts(8, 8))
    yield row("twice", "recurrent by hand", text,
        lambda s, x: s.out(torch.stack([(h := s.hidden(x[:, 0]).tanh()), s.hidden(h).tanh()], 1)), hidden=parts(8, 8),
        out=parts(8, 8))
    yield row("twice", "fc used again", x, lambda s, x: s.fc2(s.fc1(relu(s.fc1(x)))), fc1=parts(8, 8), fc2=parts(8, 8))
    # fewer values read than written
    yield ("fewer", "glu between convolutions",
        sequence(conv(3, 8), nn.GLU(1), conv(4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(4, 2)),
        (image,))
    yield row("fewer", "maxout", image, lambda s, x: s.fc(maxout(s.conv1(x)).mean((2, 3))), conv1=conv(3, 8),
        fc=parts(4, 2))
    yield row("fewer", "maxout of conv", image, lambda s, x: s.conv2(maxout(s.conv1(x))).mean((2, 3)),
        conv1=conv(3, 8), conv2=conv(4, 5))
    yield row("fewer", "half read", x, lambda s, x: s.fc2(relu(s.fc1(x))[:, :4]), fc1=parts(8, 8), fc2=parts(4, 2))
    yield row("fewer", "channel split", image, lambda s, x: s.conv2(s.conv1(x)[:, :4]).mean((2, 3)), conv1=conv(3, 8),
        conv2=conv(4, 5))
    yield row("fewer", "pixel shuffle", image, lambda s, x: s.conv2(F.pixel_shuffle(s.conv1(x), 2)).mean((2, 3)),
        conv1=conv(3, 8), conv2=conv(2, 5))
    # more values read than written
    yield row("more", "two poolings joined", image,
        lambda s, x: s.fc(torch.cat([(h := relu(s.conv1(x))).mean((2, 3)), h.amax((2, 3))], 1)), conv1=conv(3, 4),
        fc=parts(8, 2))
    yield row("more", "four poolings joined", image,
        lambda s, x: s.fc(torch.cat([
                (h := relu(s.conv1(x))).mean((2, 3)), h.amax((2, 3)), h.std((2, 3)), h.amin((2, 3))], 1)),
        conv1=conv(3, 4), fc=parts(16, 2))
    yield row("more", "crelu", x, lambda s, x: s.fc2(torch.cat([relu(h := s.fc1(x)), relu(-h)], 1)), fc1=parts(8, 6),
        fc2=parts(12, 2))
    yield row("more", "spatial pyramid", image,
        lambda s, x: s.fc(torch.cat([F.adaptive_avg_pool2d((h := relu(s.conv1(x))), 2).flatten(1), h.mean((2, 3))], 1)),
        conv1=conv(3, 4), fc=parts(20, 2))
    yield row("more", "flattened, channels last", image,
        lambda s, x: s.fc(relu(s.conv1(x)).permute(0, 2, 3, 1).flatten(1)), conv1=conv(3, 4), fc=parts(256, 2))
    yield row("more", "dense concatenation", x, lambda s, x: s.fc2(torch.cat([x, relu(s.fc1(x))], 1)), fc1=parts(8, 8),
        fc2=parts(16, 2))
    yield row("more", "space to depth", image,
        lambda s, x: s.conv2(F.pixel_unshuffle(relu(s.conv1(x)), 2)).mean((2, 3)), conv1=conv(3, 4), conv2=conv(16, 5))
    # norms of unknown groups
    yield row("norm", "group norm named bn1", image, lambda s, x: s.fc(relu(s.bn1(s.conv1(x))).mean((2, 3))),
        conv1=conv(3, 8), bn1=nn.GroupNorm(4, 8), fc=parts(8, 2))
    yield row("norm", "group norm named norm", image, lambda s, x: s.fc(relu(s.norm(s.conv1(x))).mean((2, 3))),
        conv1=conv(3, 8), norm=nn.GroupNorm(2, 8), fc=parts(8, 2))
    yield ("norm", "group norm, numbered",
        sequence(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(8, 2)),
        (image,))
    # storage
    yield row("transposed", "Conv1D of GPT-2", x, lambda s, x: relu(x @ s.c_fc) @ s.c_proj, c_fc=matrix(8, 8),
        c_proj=matrix(8, 8))
    yield row("transposed", "x @ w1 @ w2", x, lambda s, x: relu(relu(x @ s.w1) @ s.w2) @ s.w3, w1=matrix(8, 8),
        w2=matrix(8, 8), w3=matrix(8, 8))
    yield row("transposed", "tied autoencoder", x, lambda s, x: F.linear(relu(s.fc1(x)), s.fc1.weight.T),
        fc1=parts(8, 8))
    yield row("transposed", "transposed convolution", image, lambda s, x: s.conv2(relu(s.conv1(x))).mean((2, 3)),
        conv1=conv(3, 6), conv2=nn.ConvTranspose2d(6, 6, 3))
    # skips that no name tells; "named as a chain" are those whose names say chain, by the convention that infer keeps
    yield row("skip", "residual mlp", x, lambda s, x: s.fc3((h := relu(s.fc1(x))) + s.fc2(h)), fc1=parts(8, 8),
        fc2=parts(8, 8), fc3=parts(8, 8))
    yield row("named as a chain", "residual, numbered", x,
        lambda s, x: s.layers[2]((h := relu(s.layers[0](x))) + relu(s.layers[1](h))),
        layers=nn.ModuleList([parts(8, 8), parts(8, 8), parts(8, 2)]))
    yield row("named as a chain", "residual cnn", image,
            lambda s, x: s.fc(((h := relu(s.conv1(x))) + s.conv2(h)).mean((2, 3))),
        conv1=conv(3, 6), conv2=conv(6, 6), fc=parts(6, 2))
    yield row("skip", "inverted residual", image,
        lambda s, x: s.fc(((h := s.conv0(x)) + s.conv3(relu(s.conv2(relu(s.conv1(h)))))).mean((2, 3))),
        conv0=conv(3, 4), conv1=conv(4, 8, 1), conv2=conv(8, 8, groups=8), conv3=conv(8, 4, 1), fc=parts(4, 2))
    yield row("skip", "highway", x, lambda s, x: s.out((t := s.gate(x).sigmoid()) * relu(s.fc(x)) + (1 - t) * x),
        fc=parts(8, 8), gate=parts(8, 8), out=parts(8, 8))
    yield row("skip", "squeeze and excitation", image,
        lambda s, x: s.fc((h := relu(s.conv1(x))).mean((2, 3)) * s.fc2(relu(s.fc1(h.mean((2, 3))))).sigmoid()),
        conv1=conv(3, 8), fc1=parts(8, 8), fc2=parts(8, 8), fc=parts(8, 8))
    # order of neurons that matters
    yield row("named as a chain", "cumulative sum", x,
            lambda s, x: s.fc2(s.fc1(x).cumsum(1)), fc1=parts(8, 6), fc2=parts(6, 2))
    yield row("order", "channel shuffle", image,
        lambda s, x: s.conv2(s.conv1(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)).mean((2, 3)),
        conv1=conv(3, 8), conv2=conv(8, 4, groups=2))
    yield row("order", "neurons as positions", x, lambda s, x: s.fc2(F.max_pool1d(s.fc1(x)[:, None], 2)[:, 0]),
        fc1=parts(8, 8), fc2=parts(4, 2))
    yield row("order", "bilinear", x, lambda s, x: s.out(s.bilinear(x, x)), bilinear=nn.Bilinear(8, 8, 6),
        out=parts(6, 2))
    yield row("order", "recurrent", text, lambda s, x: s.fc(s.rnn(x)[0]), rnn=nn.GRU(8, 6, batch_first=True),
        fc=parts(6, 2))
    yield row("order", "multihead attention", text, lambda s, x: s.fc(s.attn(x, x, x)[0]),
        attn=nn.MultiheadAttention(8, 2, batch_first=True), fc=parts(8, 2))
    yield row("named as a chain", "four separable convolutions", image,
            lambda s, x: s.fc(relu(s.conv2(s.conv1(x))).mean((2, 3))),
        conv1=conv(3, 6, groups=3), conv2=conv(6, 4, 1), fc=parts(4, 2))
# fmt: on
