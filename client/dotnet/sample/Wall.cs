using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using Tanist.Client;

namespace WallController
{
    /// <summary>One node as the cluster knows it.</summary>
    sealed class WallNode
    {
        internal string Name, Error;
        internal int Row, Column;
        internal bool? InStep;
        internal JsonObject Desired, Reported;

        internal static string Source(JsonObject state) { return state == null ? null : state["source"] as string; }

        internal static bool Power(JsonObject state) { return state != null && state["power"] is bool && (bool)state["power"]; }
    }

    /// <summary>The 3x3 wall in the cluster's tables.</summary>
    static class Wall
    {
        internal const int Size = 3;

        static readonly Statement All = new Statement(
            "SELECT name, grid_row, grid_column, in_step, desired, reported, error FROM tanist_v_nodes WHERE grid_row < ? AND grid_column < ?", Size, Size);

        /// <summary>Adds the nodes that aren't there yet.</summary>
        internal static async Task Found(TanistClient client, CancellationToken cancel)
        {
            var there = new HashSet<string>((await Read(client, cancel)).Select(node => node.Name));
            for (var i = 0; i < Size * Size; i++)
            {
                var name = "wall-" + (i / Size + 1) + "-" + (i % Size + 1);
                if (there.Contains(name)) continue;
                await client.SetNodeAsync(name, new NodeSpec { Address = "10.0.1." + (i + 11), Row = i / Size, Column = i % Size }, null, cancel);
                await client.SetDesiredAsync(name, new JsonObject { { "power", true }, { "source", "Camera " + (i + 1) } }, null, cancel);
            }
        }

        /// <summary>All nodes in one snapshot, by the view that is made for people.</summary>
        internal static async Task<List<WallNode>> Read(TanistClient client, CancellationToken cancel)
        {
            var found = await client.QueryAsync(new[] { All }, null, cancel);
            return found.Rows.Select(row => new WallNode
            {
                Name = row.Get<string>("name"),
                Row = (int)row.Get<long>("grid_row"),
                Column = (int)row.Get<long>("grid_column"),
                InStep = row.Get<long?>("in_step") == null ? (bool?)null : row.Get<long>("in_step") == 1,
                Desired = State(row, "desired"),
                Reported = State(row, "reported"),
                Error = row.Get<string>("error"),
            }).ToList();
        }

        static JsonObject State(Row row, string column)
        {
            var text = row.Get<string>(column);
            return text == null ? null : Json.Read(text) as JsonObject;
        }
    }
}
