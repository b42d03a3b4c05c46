"""Tests reach servers on this machine directly, whatever proxy the environment names. Child processes inherit this.

`broker` is one a session, found in the same way as for the demo and development. The processes of pytest-xdist share
it: a broker of each would start and warm up a JVM of its own.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.internal.conjecture import providers

from backstop.dev.broker import BrokerError, Owned, chain, docker, node, owned, processes, ready
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerMissing
from backstop.dev.ports import Ports
from backstop.dev.system import asked_directly
from tests.support.installed import Installed, installed_once
from tests.support.search import SEARCHING
from tests.support.turns import turns

os.environ |= asked_directly(os.environ)

# No test trusts a certificate of the system. All of such a file are parsed at the import of aiohttp, so by each process
# that a test starts: a tenth of a second of processor time, a sixth of the simulator's start.
os.environ.pop("SSL_CERT_FILE", None)

# A broker of a test lives for seconds: the JVM's second compiler costs it more time than it saves. Measured over a
# start and 3,000 records, one at a time, Java 17, Kafka 4.1: 3.3 to 4 s of CPU without it, 6.5 to 9.6 s with it.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# The time to draw and to run an example depends on the machine: other processes run beside this one.
settings.register_profile(
    "suite", deadline=None, derandomize=not SEARCHING, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# A seed is the same run whatever else the process has imported. Hypothesis would also draw from the constants of all
# modules of this project: a new constant anywhere, or another file in the same session, would change what a seed meets.
providers._get_local_constants = lambda: providers._local_constants

TESTS = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The tests live as long as the session: no collection of garbage walks through them, then or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    of = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    places = {file: place for place, file in enumerate(turns(dict.fromkeys(of.values())))}
    items.sort(key=lambda item: places[of[item]])
    if SEARCHING:
        for item in items:
            if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
                item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def garbage_is_collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collects the garbage of a test that uses asyncio, so that a leaked socket fails this test and no later one.

    Only objects that the test made are looked at: older ones are frozen, as a full collection takes 100 ms. They stay
    so until the session ends. This fixture is the first to be set up, and so the last to be torn down.
    """
    if "asyncio" not in vars(request.module):
        yield
        return
    gc.collect()
    gc.freeze()
    yield
    gc.collect()


def pytest_sessionfinish() -> None:
    """What earlier tests leaked in a fixture that many share is found by pytest's own last collection."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """One for all processes of the session: the folder above each one's own is common to them."""
    base = tmp_path_factory.getbasetemp()
    return installed_once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed")


@pytest.fixture(scope="session")
def installed(installation: Installed) -> Path:
    """The folder of the commands of the wheel."""
    return installation.commands


_SHARED = pytest.StashKey[Owned | None]()


def shared_broker(config: pytest.Config) -> tuple[str, bool] | None:
    """The broker that the leading process has started for this one, and whether it is a JVM with our settings."""
    told: tuple[str, bool] | None = getattr(config, "workerinput", {}).get("broker")
    return told


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the process that leads the others: start their broker before the first of them, unless none will need it."""
    config: pytest.Config = node.config
    if any(Path(each).name == "kafka" for each in config.getoption("ignore") or ()):
        return
    if _SHARED not in config.stash:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        config.stash[_SHARED] = None
        with suppress(BrokerError):  # Each test that needs one fails, and says what to install.
            config.stash[_SHARED] = stack.enter_context(started_broker())
    started = config.stash[_SHARED]
    if started is not None:
        node.workerinput["broker"] = (started.bootstrap, started.node is not None)


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Owned]:
    """The session's broker. Shared: a test leaves it running and keeps to its own topics and groups."""
    shared = shared_broker(request.config)
    if shared is not None:
        yield Owned(shared[0], chain.Given(shared[0]))
        return
    with started_broker() as running:
        yield running


@pytest.fixture(scope="session")
def broker_is_our_node(request: pytest.FixtureRequest, broker: Owned) -> bool:
    """Whether the session's broker is a JVM with our settings; not one that was given, and no container."""
    shared = shared_broker(request.config)
    return broker.node is not None if shared is None else shared[1]


@contextmanager
def started_broker() -> Iterator[Owned]:
    """A broker for a session."""
    engine = docker.find(os.environ)
    if isinstance(chain.given(os.environ), BrokerMissing) and isinstance(engine, Engine):
        with in_test_container(engine) as running:
            yield running
    else:
        with owned(os.environ) as running:
            yield running


@contextmanager
def in_test_container(engine: Engine) -> Iterator[Owned]:
    """The container of development, held by testcontainers, whose reaper removes it if this session is killed."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - slow, and needed only with an engine

    port = node.draw_ports().client
    container = DockerContainer(docker.IMAGE).with_bind_ports(docker.CLIENT_PORT, port)
    for name, value in docker.container_settings(port).items():
        container.with_env(name, value)
    with container:
        bootstrap = f"{node.HOST}:{port}"
        if not processes.until(lambda: ready.answers(bootstrap), docker.START_TIMEOUT_S):
            raise BrokerError(f"Kafka in a container did not answer:\n{container.get_logs()}")
        yield Owned(bootstrap, engine)


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Ports that are held for processes of the test: meanwhile the system gives them to no other process."""
    drawn = Ports()
    yield drawn
    drawn.release()
