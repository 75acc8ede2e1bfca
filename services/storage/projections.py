"""What the ledger remembers: the rows of its read models, and which events are in them.

An event is folded into every read model in one transaction with the note that it is in there, so that one that comes
twice, or once live and once from the past, counts once.
"""

import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, delete, func, select

from services.domain.messages import Event
from services.domain.order import Plan
from services.domain.projections import PROJECTIONS, Projection, Row
from services.storage.database import PROJECTED, VIEWS, Database

KEPT = ""
"""The row key that says that a read model is kept at all."""
_FILLED = '{"filled": true}'


class ProjectionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def kept(self) -> list[Projection]:
        """The read models that are kept."""
        query = select(VIEWS.c.projection).where(VIEWS.c.key == KEPT)
        names = await self._database.read(lambda connection: connection.execute(query).scalars().all())
        return [PROJECTIONS[name] for name in names if name in PROJECTIONS]

    async def filled(self) -> frozenset[str]:
        """The names of those of them that have all of the past in them."""
        query = select(VIEWS.c.projection).where(VIEWS.c.key == KEPT, VIEWS.c.row == _FILLED)
        return frozenset(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def keep(self, projection: Projection, *, filled: bool = False) -> None:
        """Keep ``projection`` from now on; ``filled`` once what was before has been folded in by ``project``."""
        kept = self._database.insert(VIEWS).values(
            projection=projection.name, key=KEPT, row=_FILLED if filled else "{}"
        )
        kept = (
            kept.on_conflict_do_update(index_elements=[VIEWS.c.projection, VIEWS.c.key], set_={"row": _FILLED})
            if filled
            else kept.on_conflict_do_nothing()
        )
        await self._database.write(lambda connection: connection.execute(kept))

    async def drop(self, projection: Projection) -> None:
        def forget(connection: Connection) -> None:
            connection.execute(delete(VIEWS).where(VIEWS.c.projection == projection.name))
            connection.execute(delete(PROJECTED).where(PROJECTED.c.projection == projection.name))

        await self._database.write(forget)

    async def project(self, projections: Iterable[Projection], events: Iterable[tuple[str, Event, Plan]]) -> int:
        """Fold events (with the ids of their messages) into ``projections``; gives how many were news to one."""
        chosen, given = list(projections), list(events)

        def write(connection: Connection) -> int:
            return sum(
                self._fold(connection, projection, event_id, event, plan)
                for event_id, event, plan in given
                for projection in chosen
            )

        return await self._database.write(write)

    def _fold(self, connection: Connection, projection: Projection, event_id: str, event: Event, plan: Plan) -> bool:
        noted = self._database.insert(PROJECTED).values(projection=projection.name, event_id=event_id)
        if connection.execute(noted.on_conflict_do_nothing()).rowcount != 1:
            return False
        for key, change in sorted(projection.rows(event, plan), key=lambda row: row[0]):
            here = (VIEWS.c.projection == projection.name, VIEWS.c.key == key)
            # so that there is a row to lock: another replica may fold into it at the same time
            blank = self._database.insert(VIEWS).values(projection=projection.name, key=key, row="null")
            connection.execute(blank.on_conflict_do_nothing())
            before = connection.execute(select(VIEWS.c.row).where(*here).with_for_update()).scalar_one()
            connection.execute(VIEWS.update().where(*here).values(row=json.dumps(change(json.loads(before)))))
        return True

    async def rows(self, projection: Projection) -> tuple[dict[str, Row], frozenset[str]]:
        """The rows of ``projection`` and the ids of the events that are in them, of one moment."""
        view = select(VIEWS.c.key, VIEWS.c.row).where(VIEWS.c.projection == projection.name, VIEWS.c.key != KEPT)
        inside = select(PROJECTED.c.event_id).where(PROJECTED.c.projection == projection.name)

        def look(connection: Connection) -> tuple[dict[str, Row], frozenset[str]]:
            rows = {row.key: json.loads(row.row) for row in connection.execute(view)}
            return rows, frozenset(connection.execute(inside).scalars())

        return await self._database.snapshot(look)

    async def count(self) -> Mapping[str, int]:
        """How many events are in each read model."""
        query = select(PROJECTED.c.projection, func.count().label("events")).group_by(PROJECTED.c.projection)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {row.projection: row.events for row in rows}
