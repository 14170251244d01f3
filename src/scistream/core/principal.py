"""Who is asking, as far as sessions and the policy have to know it. Kept with a session: names no secret."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """One caller, as an authenticator knows it.

    Parameters
    ----------
    name : str
        Unique at one control server; sessions belong to it.
    authenticator : str
        Which one knows it.
    identities : frozenset of str
        What else the login proves: user names with their domain, UUIDs, a certificate's names.
    groups : frozenset of str
        Groups that the provider says it is in.
    """

    name: str
    authenticator: str = ""
    identities: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @property
    def domains(self) -> frozenset[str]:
        """The domains of the identities that have one; of the name only where an operator has given it.

        A name with a colon is made of what a provider says, such as a subject that its user may choose.
        """
        named = self.identities if ":" in self.name else self.identities | {self.name}
        return frozenset(one.rpartition("@")[2].lower() for one in named if "@" in one)
