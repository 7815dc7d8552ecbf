# SPDX-License-Identifier: Apache-2.0
"""The graph: regular, undirected, and random as its seed is."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from tff_secagg_ext.secagg.graph import Graph

SEEDS = st.binary(min_size=32, max_size=32)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
  clients = draw(st.integers(1, 40))
  degrees = [*range(0, clients - 1, 2), clients - 1]
  return Graph(clients, draw(st.sampled_from(degrees)), draw(SEEDS))


def naive_neighbors(graph: Graph) -> list[set[int]]:
  """The definition of docs/protocol.md."""
  cipher = ciphers.Cipher(algorithms.AES(graph.seed), modes.CTR(bytes(16)))
  stream = cipher.encryptor().update(bytes(16 * graph.clients))
  words = [
    int.from_bytes(stream[8 * i : 8 * i + 8], 'little')
    for i in range(2 * graph.clients)
  ]
  circle = sorted(
    range(graph.clients), key=lambda i: (words[2 * i], words[2 * i + 1], i)
  )
  found: list[set[int]] = [set() for _ in circle]
  for place, position in enumerate(circle):
    for step in range(1, graph.degree // 2 + 1):
      for other in (place + step, place - step):
        found[position].add(circle[other % graph.clients])
    if graph.degree == graph.clients - 1:
      found[position] = set(range(graph.clients)) - {position}
  return found


@given(graphs())
def test_neighbors_are_those_of_the_definition(graph: Graph):
  found = [graph.neighbors(i) for i in range(graph.clients)]
  assert [set(peers) for peers in found] == naive_neighbors(graph)
  for position, peers in enumerate(found):
    assert list(peers) == sorted(set(peers))
    assert len(peers) == graph.degree
    assert position not in peers
    assert all(type(peer) is int for peer in peers)
    assert all(position in found[peer] for peer in peers)


@given(graphs())
def test_the_graph_is_connected(graph: Graph):
  reached, edge = {0}, {0}
  while edge:
    edge = {j for i in edge for j in graph.neighbors(i)} - reached
    reached |= edge
  if graph.degree:
    assert len(reached) == graph.clients


def test_another_seed_gives_another_graph():
  graphs = {
    tuple(Graph(40, 4, os.urandom(32)).neighbors(i) for i in range(40))
    for _ in range(20)
  }
  assert len(graphs) == 20


def test_neighbors_are_uniform():
  """How often each other is a neighbor of 0; false alarm 1e-6."""
  counts = np.zeros(11)
  for seed in range(3000):
    graph = Graph(11, 4, seed.to_bytes(32, 'little'))
    counts[list(graph.neighbors(0))] += 1
  assert counts[0] == 0
  # Four of ten without replacement: the variance is 2/3 of Poisson's.
  statistic = ((counts[1:] - 1200) ** 2 / (1200 * 0.6)).sum() * 0.9
  assert scipy.stats.chi2.sf(statistic, 9) > 1e-6


@pytest.mark.parametrize(
  ('clients', 'degree', 'error', 'message'),
  [
    (6, 3, ValueError, r'`degree` must be even, or n - 1 = 5. Found 3. Use 4'),
    (6, 6, ValueError, '`degree` must be at most 5'),
    (6, -2, ValueError, '`degree` must be at least 0'),
    (0, 0, ValueError, '`degree` must be at most -1'),
    (6, 2.0, TypeError, '`degree` must be an integer'),
  ],
)
def test_graphs_that_are_not_there(clients, degree, error, message: str):
  with pytest.raises(error, match=message):
    Graph(clients, degree, bytes(32))


def test_one_client_alone_has_no_neighbors():
  assert Graph(1, 0, bytes(32)).neighbors(0) == ()
