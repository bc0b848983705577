"""The cause of a failure in Ray, without the exceptions that Ray wraps around it."""

from rayworks.errors import RayworksError


def cause(error: BaseException) -> BaseException:
    """Return the ``RayworksError`` that caused ``error``, if there is one; else the innermost exception."""
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
