// What a board's file must be, in the types of the Grafana version that the chart runs. A test has tsc read each board as
// a value of this type; a member that those types do not have is an error, too.
import type { DataQuery } from "@grafana/schema";
import type { Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has no enums: their values stand for them
type Plain<T> = unknown extends T ? T
  : T extends string ? `${T}`
  : T extends number ? (`${T}` extends `${infer N extends number}` ? N : never)
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

// Grafana's Prometheus query; its own package is not published for each version
interface PrometheusQuery extends DataQuery {
  expr: string;
  exemplar?: boolean;
  format?: "time_series" | "table" | "heatmap";
  instant?: boolean;
  legendFormat?: string;
  range?: boolean;
}
interface Link { title: string; url?: string; targetBlank?: boolean }
interface Defaults<Custom> extends Omit<FieldConfig, "custom" | "links"> { custom?: Partial<Custom>; links?: Link[] }
interface Fields<Custom> extends Omit<FieldConfigSource, "defaults"> { defaults: Defaults<Custom> }
interface Of<Type, Options, Custom> extends Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> {
  type: Type;
  options: Partial<Options>;
  fieldConfig: Fields<Custom>;
  targets: PrometheusQuery[];
}
type AnyPanel = Of<"timeseries", timeseries.Options, timeseries.FieldConfig> | Of<"stat", stat.Options, {}> | RowPanel;
export type Board = Plain<Omit<Dashboard, "panels"> & { panels: AnyPanel[] }>;
