using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>Where a managed machine belongs.</summary>
    public sealed class NodeSpec
    {
        /// <summary>Where it is reached, as whoever needs it understands it.</summary>
        public string Address { get; set; }

        /// <summary>Its row in the arrangement.</summary>
        public long? Row { get; set; }

        /// <summary>Its column.</summary>
        public long? Column { get; set; }

        /// <summary>Further properties.</summary>
        public JsonObject Labels { get; set; }

        internal JsonObject ToJson()
        {
            var json = new JsonObject();
            if (Address != null) json["address"] = Address;
            if (Row.HasValue) json["row"] = Row.Value;
            if (Column.HasValue) json["column"] = Column.Value;
            if (Labels != null) json["labels"] = Labels;
            return json;
        }
    }

    /// <summary>A managed machine.</summary>
    public sealed class Node : Recorded
    {
        internal Node(JsonObject json) : base(json)
        {
            Name = json.Text("name");
            Address = json.TextOrNull("address");
            Row = json.IntegerOrNull("row");
            Column = json.IntegerOrNull("column");
            Labels = json.Object("labels");
            InStep = json.FlagOrNull("in_step");
            DesiredRevision = json.IntegerOrNull("desired_revision");
            ReportedFor = json.IntegerOrNull("reported_for");
            Error = json.TextOrNull("error");
            ReportedAt = json.TextOrNull("reported_at");
            Presence = json.TextOrNull("presence");
            PresenceSince = json.TextOrNull("presence_since");
        }

        /// <summary>Its name.</summary>
        public string Name { get; private set; }

        /// <summary>Where it is reached.</summary>
        public string Address { get; private set; }

        /// <summary>Its row in the arrangement.</summary>
        public long? Row { get; private set; }

        /// <summary>Its column.</summary>
        public long? Column { get; private set; }

        /// <summary>Further properties.</summary>
        public JsonObject Labels { get; private set; }

        // What follows comes with a list only.

        /// <summary>Whether it says that it has its newest desired state; <c>null</c> when nothing is desired.</summary>
        public bool? InStep { get; private set; }

        /// <summary>Revision of the desired state.</summary>
        public long? DesiredRevision { get; private set; }

        /// <summary>The desired state that the node's report answers.</summary>
        public long? ReportedFor { get; private set; }

        /// <summary>Why the node couldn't reach it.</summary>
        public string Error { get; private set; }

        /// <summary>When the node first said so.</summary>
        public string ReportedAt { get; private set; }

        /// <summary>Whether its agent is heard of: <c>present</c> or <c>silent</c>; <c>null</c> when there never was one.</summary>
        public string Presence { get; private set; }

        /// <summary>Since when, by the master's wall clock.</summary>
        public string PresenceSince { get; private set; }
    }

    /// <summary>What a node shall have.</summary>
    public sealed class DesiredState : Recorded
    {
        internal DesiredState(JsonObject json) : base(json)
        {
            Node = json.Text("node");
            State = json.Object("state");
        }

        /// <summary>The node.</summary>
        public string Node { get; private set; }

        /// <summary>What it shall have.</summary>
        public JsonObject State { get; private set; }
    }

    /// <summary>What a node says it has.</summary>
    public sealed class ReportedState : Recorded
    {
        internal ReportedState(JsonObject json) : base(json, "reported_at", "")
        {
            Node = json.Text("node");
            State = json.Object("state");
            DesiredRevision = json.IntegerOrNull("desired_revision");
            Error = json.TextOrNull("error");
        }

        /// <summary>The node.</summary>
        public string Node { get; private set; }

        /// <summary>What it has.</summary>
        public JsonObject State { get; private set; }

        /// <summary>Revision of the desired state that it answers.</summary>
        public long? DesiredRevision { get; private set; }

        /// <summary>Why that couldn't be reached.</summary>
        public string Error { get; private set; }
    }

    public sealed partial class TanistClient
    {
        /// <summary>The nodes by name, and whether each is in step.</summary>
        /// <param name="after">After this name: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Page<Node>> ListNodesAsync(
            string after = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return List("/v1/nodes" + Query("after", after), read, json => new Node(json), cancel);
        }

        /// <summary>As <see cref="ListNodesAsync"/>, blocking.</summary>
        /// <param name="after">After this name: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Page<Node> ListNodes(string after = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ListNodesAsync(after, read, cancel));
        }

        /// <summary>A node; <c>null</c> if there is none. Its <see cref="Node.InStep"/> is only known from <see cref="ListNodesAsync"/>.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Node> GetNodeAsync(string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(Path("nodes", node), read, json => new Node(json), null, cancel);
        }

        /// <summary>As <see cref="GetNodeAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Node GetNode(string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(GetNodeAsync(node, read, cancel));
        }

        /// <summary>Adds a node, or says anew where it belongs.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="spec">Address, row, column, labels.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Node> SetNodeAsync(
            string node, NodeSpec spec, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return MakeRecorded(Write(HttpMethod.Put, Path("nodes", node), spec.ToJson(), write), json => new Node(json), cancel);
        }

        /// <summary>As <see cref="SetNodeAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="spec">Address, row, column, labels.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Node SetNode(string node, NodeSpec spec, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(SetNodeAsync(node, spec, write, cancel));
        }

        /// <summary>Changes some of what is said of a node.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="patch">A JSON Merge Patch (RFC 7396): what is named changes, <c>null</c> removes. Of <c>address</c>, <c>row</c>, <c>column</c>, <c>labels</c>.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Node> PatchNodeAsync(
            string node, JsonObject patch, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return MakeRecorded(Patch(Path("nodes", node), patch, write), json => new Node(json), cancel);
        }

        /// <summary>As <see cref="PatchNodeAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="patch">A JSON Merge Patch (RFC 7396): what is named changes, <c>null</c> removes. Of <c>address</c>, <c>row</c>, <c>column</c>, <c>labels</c>.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Node PatchNode(
            string node, JsonObject patch, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(PatchNodeAsync(node, patch, write, cancel));
        }

        /// <summary>Removes a node; gives the revision of the removal.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<long> RemoveNodeAsync(string node, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Remove(Path("nodes", node), write, cancel);
        }

        /// <summary>As <see cref="RemoveNodeAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public long RemoveNode(string node, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(RemoveNodeAsync(node, write, cancel));
        }

        /// <summary>What a node shall have; <c>null</c> if nothing is said.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<DesiredState> GetDesiredAsync(
            string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(Path("nodes", node) + "/desired", read, json => new DesiredState(json), null, cancel);
        }

        /// <summary>As <see cref="GetDesiredAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public DesiredState GetDesired(string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(GetDesiredAsync(node, read, cancel));
        }

        /// <summary>Says what a node shall have.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="state">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<DesiredState> SetDesiredAsync(
            string node, JsonObject state, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            var body = new JsonObject { { "state", state } };
            var call = Write(HttpMethod.Put, Path("nodes", node) + "/desired", body, write);
            return MakeRecorded(call, json => new DesiredState(json), cancel);
        }

        /// <summary>As <see cref="SetDesiredAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="state">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public DesiredState SetDesired(
            string node, JsonObject state, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(SetDesiredAsync(node, state, write, cancel));
        }

        /// <summary>Changes some of what a node shall have.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="patch">A JSON Merge Patch (RFC 7396): what is named changes, <c>null</c> removes.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<DesiredState> PatchDesiredAsync(
            string node, JsonObject patch, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            var body = new JsonObject { { "state", patch } };
            return MakeRecorded(Patch(Path("nodes", node) + "/desired", body, write), json => new DesiredState(json), cancel);
        }

        /// <summary>As <see cref="PatchDesiredAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="patch">A JSON Merge Patch (RFC 7396): what is named changes, <c>null</c> removes.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public DesiredState PatchDesired(
            string node, JsonObject patch, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(PatchDesiredAsync(node, patch, write, cancel));
        }

        /// <summary>What a node says it has; <c>null</c> if it has said nothing.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<ReportedState> GetReportedAsync(
            string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(Path("nodes", node) + "/reported", read, json => new ReportedState(json), null, cancel);
        }

        /// <summary>As <see cref="GetReportedAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public ReportedState GetReported(string node, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(GetReportedAsync(node, read, cancel));
        }

        /// <summary>Says what this node has. The same said again changes nothing.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="state">What JSON can say.</param>
        /// <param name="desiredRevision"><see cref="Recorded.Revision"/> of the desired state that this answers.</param>
        /// <param name="error">Why that could not be reached; <c>null</c> if it was.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<ReportedState> ReportAsync(
            string node, JsonObject state, long? desiredRevision = null, string error = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            var body = new JsonObject { { "state", state } };
            if (desiredRevision.HasValue) body["desired_revision"] = desiredRevision.Value;
            if (error != null) body["error"] = error;
            var call = Write(HttpMethod.Put, Path("nodes", node) + "/reported", body, write);
            return MakeRecorded(call, json => new ReportedState(json), cancel);
        }

        /// <summary>As <see cref="ReportAsync"/>, blocking.</summary>
        /// <param name="node">Its name.</param>
        /// <param name="state">What JSON can say.</param>
        /// <param name="desiredRevision"><see cref="Recorded.Revision"/> of the desired state that this answers.</param>
        /// <param name="error">Why that could not be reached; <c>null</c> if it was.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public ReportedState Report(
            string node, JsonObject state, long? desiredRevision = null, string error = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ReportAsync(node, state, desiredRevision, error, write, cancel));
        }
    }
}
