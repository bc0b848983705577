"""What really went wrong, beneath the wrappers that Ray puts around an exception."""

from rayworks.errors import RayworksError


def cause(error: BaseException) -> BaseException:
    """The ``RayworksError`` beneath ``error``, if there is one; else the innermost exception."""
    innermost, seen = error, set[int]()
    while innermost and id(innermost) not in seen:
        if isinstance(innermost, RayworksError):
            return innermost
        seen.add(id(innermost))
        inner = getattr(innermost, "cause", None) or innermost.__cause__ or innermost.__context__
        if not isinstance(inner, BaseException):
            break
        innermost = inner
    return innermost
