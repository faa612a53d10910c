"""Finding a domain."""

import pytest

from tc_mmwm_core.domains.base import DOMAINS, DomainError, load_domain


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_found_by_its_name_and_as_module_and_factory(name):
    assert load_domain(name).name == name
    assert type(load_domain(DOMAINS[name])) is type(load_domain(name))


@pytest.mark.parametrize(
    "name, told",
    [
        ("swimming", "'swimming': known are navigation, manipulation, or your own as module:factory$"),
        ("navigatoin", "'navigatoin': known are .* module:factory; did you mean 'navigation'"),
        (":make", "':make': known are navigation"),
        ("nowhere:make", "'nowhere:make' cannot be loaded: No module named 'nowhere'"),
        ("math:make", "'math:make' cannot be loaded: module 'math' has no attribute 'make'"),
    ],
)
def test_an_unknown_domain_is_refused_by_name(name, told):
    with pytest.raises(DomainError, match=told):
        load_domain(name)


def test_a_factory_that_returns_the_class_in_place_of_an_instance_is_told(tmp_path, monkeypatch):
    (tmp_path / "classy_domain.py").write_text("class Dot: ...\n\ndef make():\n    return Dot\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DomainError, match="domain 'classy_domain:make' returns the class Dot; an instance is needed"):
        load_domain("classy_domain:make")
