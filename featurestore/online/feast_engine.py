"""`PackedComputeEngine`: Feast's local engine, which hands columns to the packed stores as columns.

```yaml
batch_engine:
  type: featurestore.online.feast_engine.PackedComputeEngine
```

Feast turns every value into a protobuf before any online store sees it, which is most of what `materialize` takes. This
engine replaces the last step alone, and only where it can: for packed stores, and types that Arrow holds as they are
packed. Everything else goes Feast's way, with the same result.
"""

from __future__ import annotations

from typing import Any, Literal

from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.arrow_table_value import ArrowTableValue
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.local.nodes import LocalOutputNode
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from featurestore.online.feast_columns import packed_table
from featurestore.online.feast_store import PackedOnlineStore, table_name

__all__ = ["PackedComputeEngine", "PackedComputeEngineConfig"]


class PackedComputeEngineConfig(FeastConfigBaseModel):
    """The `batch_engine` section of feature_store.yaml."""

    type: Literal["featurestore.online.feast_engine.PackedComputeEngine"] = (
        "featurestore.online.feast_engine.PackedComputeEngine"
    )
    backend: str | None = None


_BATCH_ROWS = 50_000


class PackedComputeEngine(LocalComputeEngine):
    """Feast's local engine with another last step."""

    def _materialize_one(
        self,
        registry: BaseRegistry,
        task: MaterializationTask,
        **kwargs: Any,  # noqa: ARG002
    ) -> LocalMaterializationJob:
        """As Feast's own, with `_Builder`. Feast wants errors in the job, whatever they are."""
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        context = self.get_execution_context(registry, task)
        try:
            _Builder(registry, task, backend=self._get_backend(context)).build().execute(context)
        except Exception as error:  # noqa: BLE001
            return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)


class _Builder(LocalFeatureBuilder):
    def build_output_nodes(self, view: FeatureView, input_node: Any) -> Any:  # noqa: ARG002
        root: Any = self.dag_root
        node = _PackedOutputNode("output", root.view, inputs=[input_node])
        self.nodes.append(node)
        return node


class _PackedOutputNode(LocalOutputNode):
    """Writes columns to the online store where it takes them."""

    def execute(self, context: Any) -> ArrowTableValue:
        table, view, store = self.get_single_table(context).data, self.feature_view, context.online_store
        if not isinstance(store, PackedOnlineStore) or not view.online or view.offline or not table.num_rows:
            return super().execute(context)
        parts = [packed_table(view, table.slice(start, _BATCH_ROWS)) for start in range(0, table.num_rows, _BATCH_ROWS)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return super().execute(context)
        for schema, keys, rows in whole:
            store.write_rows(context.repo_config, table_name(context.repo_config, view), schema, keys, rows)
        output = ArrowTableValue(data=table)
        context.node_outputs[self.name] = output
        return output
