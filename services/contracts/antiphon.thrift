// The participants of an order as Thrift services. The same vocabulary as services/domain/messages.py, field by field.
//
// A refusal is an answer like any other (an Event with a reason). Failed is declared for what goes wrong with a call
// that could be read; what could not be, or has no method, gets Thrift's own TApplicationException. Calls are
// idempotent by order id and method.
//
// No field is `required`: a reader turns the whole message down where such a field is missing, without a word for which,
// so that nobody could ever leave it out again. All are sent; that they have come is checked by the reader's own code,
// which names the field. `optional` is what the sender may leave out. A number, once used, is never given to another
// field, and what a reader does not know it skips.
namespace * antiphon
namespace py services.contracts.generated.antiphon_thrift

// So many pieces of one article.
struct Line {
  1: string sku
  2: i64 quantity // pieces; at least 1
}

// What the customer asked for. It never changes.
struct Order {
  1: string order_id // never empty
  2: string customer
  3: string card
  4: string ship_to
  5: list<Line> lines // at least one
  6: i64 amount_cents // the sum that is charged, in cents
}

// What is to be done is the method's name; this is to what.
struct Command {
  1: Order order
}

struct Event {
  1: string type // the CloudEvents type, "stock.reserved"
  2: Order order // the order as it was sent
  3: optional string reason // a sentence for people; present in refusals only
}

enum Code {
  INVALID_ARGUMENT = 1 // the message names the field that is wrong
  INTERNAL = 2 // the participant could not carry it out; whether it was done is unknown
  UNAVAILABLE = 3 // the participant is about to stop; nothing was done
}

exception Failed {
  1: Code code
  2: string message // a sentence for people
}

// The stock.
service Inventory {
  Event reserve(1: Command command) throws (1: Failed failed) // stock.reserved or stock.refused
  Event release(1: Command command) throws (1: Failed failed) // stock.released
}

// The customer's card.
service Payment {
  Event charge(1: Command command) throws (1: Failed failed) // payment.charged or payment.declined
  Event refund(1: Command command) throws (1: Failed failed) // payment.refunded
}

// The carrier.
service Shipping {
  Event book(1: Command command) throws (1: Failed failed) // shipment.booked or shipment.refused
  Event cancel(1: Command command) throws (1: Failed failed) // shipment.cancelled
}

// Word to the customer; cannot be taken back.
service Notifications {
  Event notify(1: Command command) throws (1: Failed failed) // customer.notified or notification.refused
}
